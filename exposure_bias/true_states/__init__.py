"""A network asked at true states: its errors there, and what they will cost the samples."""
