"""The deployed dashboard as a picture: read from CloudWatch as it was synthesised, and drawn with what was measured."""
