module cloudstate.io/parts/pause

go 1.24.0
