"""Measurements. They print figures and never gate."""
