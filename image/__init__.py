"""What runs inside docker build."""
