"""What a run leaves behind: the folder, its files, and the way they are written."""
