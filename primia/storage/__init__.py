"""What survives `kill -9`: one state folder, one database, blobs named by their digest."""
