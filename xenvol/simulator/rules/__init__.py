"""The rules of the XenAPI messages: a module per class or part of a class; importing it registers its rules."""
