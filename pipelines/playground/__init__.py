"""The method in a browser: what a word, a refiner or a threshold changes, and masks mended by hand."""
