"""Measure speech recognition: invented words on sound without speech, and word error rates on spoken sentences."""
