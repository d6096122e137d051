"""Workers: `supervisor` is trusted, `child` is not. The folders are the trust boundary."""
