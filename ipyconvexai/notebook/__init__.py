"""The notebook's edge: magics and what they show. Floor 6: calls the public layer and render; the only door to IPython."""
