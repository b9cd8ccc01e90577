"""Processes of ours: started beside us (`spawn`), or run to their end (`proc`)."""
