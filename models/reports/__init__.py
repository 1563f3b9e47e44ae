"""What was measured, as people read it: one structure of words, tables and plots, told as Markdown and as a page."""
