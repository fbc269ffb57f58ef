"""Widgets: the chat panel and forms. The only door to anywidget; floor 5: calls the app and render/.

What they show has passed ``render``, and their JavaScript puts it on the page as text or as that HTML.
"""
