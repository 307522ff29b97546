"""The commands that need nothing but the core: doctor, plans, export and demo; a module each."""
