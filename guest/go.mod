module vimto/guest

go 1.21
