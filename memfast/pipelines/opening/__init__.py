"""From what MODEL names to what is read: a name, one file, a folder of portable parts."""
