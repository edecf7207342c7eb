// The counter of `src/counter/event_sourced.rs` on Node: its first line of output is where it listens.
//
//   node counter.js <address> <folder of the protocol> <folder of counter.proto> <descriptor set> <events per snapshot>
'use strict';

const fs = require('node:fs');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const protobuf = require('protobufjs');

const [address, protocol, own, descriptors, snapshotEvery] = process.argv.slice(2);

const services = grpc.loadPackageDefinition(
  loader.loadSync(['cloudstate/entity.proto', 'cloudstate/event_sourced.proto'], {
    includeDirs: [protocol], keepCase: true, longs: Number, oneofs: true,
  }),
).cloudstate;

// What it imports only says which field is the key, and that is the proxy's business.
const { root } = protobuf.parse(fs.readFileSync(`${own}/counter.proto`, 'utf8'), new protobuf.Root(), { keepCase: true });
const [Request, Total, Added] = ['Request', 'Total', 'Added'].map((name) => root.lookupType(`testbed.${name}`));
const PREFIX = 'type.googleapis.com/testbed.';
const any = (type, message) => ({ type_url: PREFIX + type.name, value: type.encode(message).finish() });
const number = (long) => (typeof long === 'number' ? long : long.toNumber());

function discover(_call, done) {
  done(null, {
    proto: fs.readFileSync(descriptors),
    entities: [{
      entity_type: 'cloudstate.eventsourced.EventSourced',
      service_name: 'testbed.Counter',
      persistence_id: 'counter',
    }],
    service_info: { service_name: 'counter', protocol_major_version: 0, protocol_minor_version: 2 },
  });
}

function reportError(call, done) {
  console.error('reported:', call.request.message);
  done(null, {});
}

// One activation of one counter.
function handle(stream) {
  let [value, sequence] = [0, 0];
  const every = Number(snapshotEvery);

  const apply = (event) => {
    value += number(event.amount);
    sequence += 1;
  };
  const answer = (command, request) => {
    const reply = { command_id: command.id, events: [] };
    if (command.name === 'Add' && !request.failure) {
      for (let left = Math.max(request.events, 1); left > 0; left -= 1) {
        const { amount, caller, number: which, data } = request;
        const event = { amount, value: value + number(amount), caller, number: which, data };
        apply(event);
        reply.events.push(any(Added, event));
      }
      if (every > 0 && sequence % every === 0) reply.snapshot = any(Total, { value, sequence });
    }
    reply.client_action = request.failure
      ? { failure: { description: request.failure } }
      : { reply: { payload: any(Total, { value, sequence }) } };
    stream.write({ reply });
  };

  stream.on('data', ({ init, event, command }) => {
    if (command) {
      const request = Request.decode(command.payload.value);
      if (request.delay_ms) setTimeout(answer, request.delay_ms, command, request);
      else answer(command, request);
    } else if (event) {
      apply(Added.decode(event.payload.value));
    } else if (init.snapshot) {
      const total = Total.decode(init.snapshot.snapshot.value);
      [value, sequence] = [number(total.value), number(total.sequence)];
    }
  });
  stream.on('end', () => stream.end());
  // The proxy may leave at any moment; an activation holds nothing that would miss it.
  stream.on('error', () => {});
}

const server = new grpc.Server();
server.addService(services.EntityDiscovery.service, { discover, reportError });
server.addService(services.eventsourced.EventSourced.service, { handle });
server.bindAsync(address, grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  console.log(`${address.slice(0, address.lastIndexOf(':'))}:${port}`);
});
