"""Does a model still hold an image that its prompt no longer brings?"""
