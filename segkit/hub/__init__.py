"""The hub command: trained models to the Hugging Face hub."""
