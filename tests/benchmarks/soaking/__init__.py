"""What the soak is made of: machines, jobs that begin over and over, what happens to them, who watches."""
