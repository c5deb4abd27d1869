"""What users write, and how it becomes a snapshot. pydantic and RE2 live here and end here."""
