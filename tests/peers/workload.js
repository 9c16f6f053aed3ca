// An app that does its own TLS, by gRPC's implementation in JavaScript: asks the socket beside it, and writes a line of JSON
// for each state that it is shown, until it is told that there is nothing any more. SOCKET PROTO

const { createPrivateKey, X509Certificate } = require("node:crypto");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [socket, proto] = process.argv.slice(2);
const { SpiffeWorkloadAPI } = grpc.loadPackageDefinition(loader.loadSync(proto, { keepCase: true }));
const client = new SpiffeWorkloadAPI(`unix://${socket}`, grpc.credentials.createInsecure());

const marked = () => {
  const metadata = new grpc.Metadata();
  metadata.set("workload.spiffe.io", "true");
  return metadata;
};

const say = (message, fields) => console.log(JSON.stringify({ fields: { message, ...fields } }));

// Certificates in DER, one after the other.
const certificates = (bytes) => {
  const found = [];
  for (let rest = bytes; rest.length > 0; ) {
    const size = rest[1] < 0x80 ? 2 + rest[1] : 2 + (rest[1] & 0x7f) + rest.readUIntBE(2, rest[1] & 0x7f);
    found.push(new X509Certificate(rest.subarray(0, size)));
    rest = rest.subarray(size);
  }
  return found;
};

const show = ({ svids: [svid] }) => {
  const chain = certificates(svid.x509_svid);
  const issuers = [...chain.slice(1), ...certificates(svid.bundle)];
  for (const certificate of chain) {
    const issuer = issuers.find((issuer) => certificate.checkIssued(issuer));
    if (!issuer || !certificate.verify(issuer.publicKey)) throw new Error(`no issuer of ${certificate.subject}`);
  }
  const key = createPrivateKey({ key: svid.x509_svid_key, format: "der", type: "pkcs8" });
  if (!chain[0].checkPrivateKey(key)) throw new Error("the key is another's");
  if (chain[0].subjectAltName.split(", ")[0] !== `URI:${svid.spiffe_id}`) throw new Error(chain[0].subjectAltName);
  say("context", { id: svid.spiffe_id, serial: chain[0].serialNumber.toLowerCase() });
};

client.FetchX509SVID({}, new grpc.Metadata()).on("data", show).on("error", ({ code }) => say("unmarked", { code }));
client.FetchX509Bundles({}, marked()).once("data", ({ bundles }) => {
  const counts = Object.entries(bundles).map(([domain, bytes]) => [domain, certificates(bytes).length]);
  say("bundles", { bundles: Object.fromEntries(counts) });
});
client.FetchX509SVID({}, marked()).on("data", show).on("error", ({ code, details }) => {
  say("error", { code, details });
  client.close();
  process.exit(0);
});
