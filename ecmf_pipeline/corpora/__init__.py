"""Read corpus layouts and index their files into the manifest.

`registry.read_corpus` lists the clips that csv files and file names define. `index.index_corpus` then reads the files
themselves: digest, streams, duration. A problem that leaves the corpus usable is reported as a `listing.Finding`; an
error is raised only if no usable clip remains. To add a layout, write a reader and register it in `registry.READERS`.
"""
