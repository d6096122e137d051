"""Studies of the learning trial and of the prescription: what they say of healthy and of sick networks."""
