"""Small networks and what engine tests read off them."""
