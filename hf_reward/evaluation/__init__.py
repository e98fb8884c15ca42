"""Show what a run measured: the best and worst pairs, the plots and the tables of the terminal."""
