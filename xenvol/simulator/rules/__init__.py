"""What each XenAPI message does: a module for a class or a part of one; importing it registers its rules."""
