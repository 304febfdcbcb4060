"""The method inside CVAT, Label Studio and X-AnyLabeling: each a small file over one predict function."""
