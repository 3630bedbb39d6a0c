"""Where jobs run: renders and submits. Imported by nobody."""
