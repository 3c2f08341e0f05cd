"""The reference controller: stores what devices report. It is no part of the device's binary."""
