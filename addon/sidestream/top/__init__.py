"""
`sidestream top`: what a running proxy does, in a terminal.

All of it comes from the admin endpoint, which may be on another machine: `asking` gets it, `reading` takes it
apart, `figures` makes two readings into rates, `picture` makes those into text, `app` shows it with Textual.
"""
