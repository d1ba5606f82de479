"""What each XenAPI message does: one module for a class or a part of one; importing a module registers its rules."""
