"""Survey of a folder of images and masks that nobody has described: its pairs, its ids and colours, its problems."""
