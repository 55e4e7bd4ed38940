"""Where clips come from: readers of corpus layouts, and the index that turns what they list into the manifest.

`registry.read_corpus` lists a corpus as it says it is (csv files, file names); `index.index_corpus` then looks at the
files themselves (digest, streams, duration). What is odd but bearable becomes a `listing.Finding`; only what leaves
nothing to work on is an error. A new layout is one function and its line in `registry.READERS`.
"""
