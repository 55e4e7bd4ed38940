"""The parts of the report: each module turns results into blocks, with a sentence on what every figure says."""
