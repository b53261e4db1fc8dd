/* Follows one topic with the npm client ws and says what happens, a JSON object a line: open, ping, message, closed. It closes
 * of itself, as a client should, after the first record. Run by tests/integration/test_node.py. */
'use strict';

const WebSocket = require('ws');

const [, , url, topic] = process.argv;
const client = new WebSocket(url);
const say = (what, more) => console.log(JSON.stringify({ what, ...more }));

client.on('open', () => {
    say('open', { extensions: client.extensions });
    client.send(JSON.stringify({ type: 'subscribe', topics: [topic] }));
});
client.on('ping', (data) => say('ping', { data: data.toString() })); /* answered by ws itself */
client.on('message', (data, isBinary) => {
    const message = JSON.parse(data);
    say('message', { isBinary, message });
    if (message.type === 'market_data')
        client.close(1000, 'enough');
});
client.on('error', (error) => say('error', { detail: String(error) }));
client.on('close', (code, reason) => say('closed', { code, reason: reason.toString() }));
