"""Tables and arrays of image-level labels."""
