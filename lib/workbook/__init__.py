"""The workbook: what reproduces the papers on top of the core."""
