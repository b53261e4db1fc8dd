#include "ops.h"

int main(int argc, char **argv)
{
    return keel_main(argc, argv, &websocket_engine);
}
