



one = 1
