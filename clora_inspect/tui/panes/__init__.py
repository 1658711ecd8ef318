"""The contents of each pane as styled lines, without Textual. The widgets draw them."""
