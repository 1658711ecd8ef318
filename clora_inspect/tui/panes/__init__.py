"""What each pane says, as styled lines that know no terminal."""
