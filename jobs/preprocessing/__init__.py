"""What the Spark commands share: their session, and what they show."""
