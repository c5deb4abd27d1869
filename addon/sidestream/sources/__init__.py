"""Where documents come from, how they are watched, and what stays in force when they break."""
