"""The compression workbook: three published systems for compressing a network under a budget."""
