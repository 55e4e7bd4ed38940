"""Extract features from clips into stores, decoding each clip once for all media branches."""
