"""What the paper shows and claims, as data: a module for each table or related figures."""
