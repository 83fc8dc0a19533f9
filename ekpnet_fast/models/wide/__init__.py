"""Wide part of EKPNet+: signals of clicks and graph, and rising curves of them."""
