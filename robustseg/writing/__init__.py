"""Steps of writing that depend on the file system; robustseg.files is where writers begin."""
