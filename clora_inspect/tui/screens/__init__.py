"""The screens of the interface, one file each. `base` holds what they share."""
