"""Reading and writing what other tools of the field use."""
