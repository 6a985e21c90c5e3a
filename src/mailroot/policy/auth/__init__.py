"""Who a client is: accounts, and the ways to prove one's own. What an account may do is the policy's business."""
