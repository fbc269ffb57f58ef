"""The notebook's edge: magics and what they show. Floor 6: calls all below; the only door to IPython."""
